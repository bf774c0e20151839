"""Counterfactual Generative Networks (Sauer & Geiger 2021): independent mechanisms of shape, texture and background."""
