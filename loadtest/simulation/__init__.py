"""A discrete-event model of the service: arrivals, queue, pods, autoscalers."""
