"""Defects that were found once."""
