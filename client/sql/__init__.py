"""Opens SQL databases so that what was acknowledged is kept, and cancelled calls leave no trace."""
