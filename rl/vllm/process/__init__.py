"""The process of vidur-router: proxy, admission, health checks, metrics, logs and dashboard."""
