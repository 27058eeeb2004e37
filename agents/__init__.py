"""driftrec."""
