"""Studies over HTTP: a FastAPI app, and its deployment on Ray Serve."""
