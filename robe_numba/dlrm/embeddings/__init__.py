"""The kinds of embedding of a DLRM, and how one is made."""
