"""The Myhill-Nerode metrics: pairs, boundaries, scores, intervals, whole models and layers."""
