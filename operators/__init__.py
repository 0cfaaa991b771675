"""Pure operators on Arrow tables of documents. Nothing here imports Ray or torch."""
