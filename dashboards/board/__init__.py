"""The board: a live page of running and past runs, read from their folders."""

from dashboards.board.app import create_app, serve

__all__ = ["create_app", "serve"]
