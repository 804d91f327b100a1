"""The worker of one host. Knows neither Django nor the database: it fetches calls from nodeapi and answers them."""
