"""What the processes tell about themselves: metrics, health, traces."""
