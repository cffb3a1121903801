"""How results are shown: each becomes a document (``results``), which any writer can write (``writers``)."""
