require("dotenv").config({ quiet: true });

const express = require("express");
const { apiLimiter, authLimiter, paymentLimiter } = require("./src/middleware/rateLimit");
const errorHandler = require("./src/middleware/errorHandler");
const slowRequests = require("./src/middleware/slowRequests");
const { startReminderWorker } = require("./src/services/reminders");

const app = express();
const PORT = process.env.PORT || 5000;

app.use(slowRequests);

app.use("/health", require("./src/routes/health"));

// Stripe needs the raw body, so this stands before express.json()
app.use("/api/webhooks/stripe", require("./src/routes/webhooks"));

app.use(express.json({ limit: "10mb" }));

app.use("/api", apiLimiter);
app.use("/api/auth", authLimiter, require("./src/routes/auth"));
app.use("/api/payments", paymentLimiter, require("./src/routes/payments"));
app.use("/api/properties", require("./src/routes/properties"));
app.use("/api/uploads", require("./src/routes/uploads"));
app.use("/api/notifications", require("./src/routes/notifications"));

app.use((req, res) => {
  res.status(404).json({ error: "Route not found" });
});
app.use(errorHandler);

app.listen(PORT, (error) => {
  if (error) throw error;
  console.log(`🚀 PropertyPulse API running on port ${PORT}`);
  console.log(`🌍 Environment: ${process.env.NODE_ENV || "development"}`);
  startReminderWorker();
});
