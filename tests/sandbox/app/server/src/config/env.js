// The configuration: read from server/.env, where a variable that is already set wins.
const path = require("node:path");

require("dotenv").config({ path: path.join(__dirname, "../../.env"), quiet: true });

const REQUIRED = [
  "DATABASE_URL",
  "JWT_SECRET",
  "STRIPE_SECRET_KEY",
  "STRIPE_WEBHOOK_SECRET",
  "AWS_ACCESS_KEY_ID",
  "AWS_SECRET_ACCESS_KEY",
  "AWS_REGION",
  "S3_BUCKET",
  "SENDGRID_API_KEY",
  "REDIS_URL",
];

const missing = REQUIRED.filter((name) => !process.env[name]);
if (missing.length > 0) {
  throw new Error(`Missing required environment variable: ${missing.join(", ")}`);
}

module.exports = {
  port: Number(process.env.PORT ?? 5000),
  logDir: process.env.LOG_DIR ?? path.join(__dirname, "../../../logs"),
  databaseUrl: process.env.DATABASE_URL,
  redisUrl: process.env.REDIS_URL,
  // The first signs, all verify: a rotation keeps the previous secret until the last token signed with it has expired.
  jwtSecrets: [process.env.JWT_SECRET, process.env.JWT_SECRET_PREVIOUS].filter(Boolean),
  stripeSecretKey: process.env.STRIPE_SECRET_KEY,
  stripeWebhookSecrets: [process.env.STRIPE_WEBHOOK_SECRET, process.env.STRIPE_WEBHOOK_SECRET_PREVIOUS].filter(Boolean),
  stripeApiBase: process.env.STRIPE_API_BASE ?? "https://api.stripe.com",
  sendgridApiKey: process.env.SENDGRID_API_KEY,
  sendgridApiBase: process.env.SENDGRID_API_BASE ?? "https://api.sendgrid.com",
  s3Bucket: process.env.S3_BUCKET,
  s3Endpoint: process.env.S3_ENDPOINT,
  awsRegion: process.env.AWS_REGION,
};
