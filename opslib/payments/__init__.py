"""Payments and Stripe: keys, webhooks, events, and the rows that they end in."""
