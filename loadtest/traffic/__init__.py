"""Load tests with locust: studies by schedule through the whole system, judged by an SLO file."""
