"""The public API's door: shape, authentication, idempotency, pages, problems. No rule of the product lives here."""
