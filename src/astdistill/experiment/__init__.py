"""Experiments: settings, pipeline, benchmark presets and cost estimates."""
