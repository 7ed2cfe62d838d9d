"""The status page at `/`: what a backend measures, as one snapshot a second that all open pages share. Knows no engine."""
