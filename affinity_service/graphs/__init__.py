"""Graphs as they come, and what is made of them: edge tiles, propagated features, sampled examples."""
