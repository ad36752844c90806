"""Count tokens: estimated, exact, and calibrated by what a server reported."""
