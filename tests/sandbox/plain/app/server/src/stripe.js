const Stripe = require("stripe");

const api = new URL(process.env.STRIPE_API_BASE || "https://api.stripe.com");

module.exports = new Stripe(process.env.STRIPE_SECRET_KEY, {
  protocol: api.protocol.slice(0, -1),
  host: api.hostname,
  port: api.port || 443,
});
