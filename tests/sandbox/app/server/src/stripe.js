const Stripe = require("stripe");
const { stripeApiBase, stripeSecretKey } = require("./config/env");

const { protocol, hostname, port } = new URL(stripeApiBase);

module.exports = new Stripe(stripeSecretKey, {
  protocol: protocol.slice(0, -1),
  host: hostname,
  port: port || 443,
  maxNetworkRetries: 1,
  timeout: 10_000,
  telemetry: false,
});
