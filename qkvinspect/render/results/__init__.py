"""What each command gives, as a document: one module a result."""
