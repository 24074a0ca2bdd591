"""The report: one HTML page, without network, of what a lake holds and how its runs went."""
