"""The board: a live page of running and past runs, read from their folders."""

from dashboards.board.app import create_app
from dashboards.board.server import serve

__all__ = ["create_app", "serve"]
