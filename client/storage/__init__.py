"""What must never be lost: the objects, the ledger of jobs, and the reconciler between them."""
