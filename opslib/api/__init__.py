"""The API: its workers under PM2, what they answer and log, the secrets that they sign with."""
