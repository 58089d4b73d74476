"""Known ids and their numbers: counted, merged and looked up."""
