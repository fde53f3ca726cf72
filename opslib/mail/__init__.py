"""Mail through SendGrid: what is sent, and to whom it is not."""
