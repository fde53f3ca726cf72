"""Where things are and what is secret: the environment's API, its `.env`, references and staged secrets."""
