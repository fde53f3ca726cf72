"""PostgreSQL: logins, sessions, statements and indexes of the API's database."""
