"""Template tags of the shared design system."""
