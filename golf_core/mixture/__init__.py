"""The valid mixture: experts and weights that come from scored tokens alone, normalised by construction."""
