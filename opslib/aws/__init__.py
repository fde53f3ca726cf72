"""AWS: the API's access keys, and what they may do."""
