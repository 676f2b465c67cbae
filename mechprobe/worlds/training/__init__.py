"""Small models of worlds: trained, shipped, and the sequences that they learn from."""
