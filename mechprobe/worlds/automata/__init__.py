"""Worlds as automata: states, words, and what is legal."""
