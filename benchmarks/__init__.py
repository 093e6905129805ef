"""How fast and how small, as ratios in one run: each case beside its floor and beside a naive form of itself."""
