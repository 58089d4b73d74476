"""What a ROBE array of a given size will be like, before anything is trained."""
