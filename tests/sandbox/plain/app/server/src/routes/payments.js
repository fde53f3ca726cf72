const express = require("express");
const authenticate = require("../middleware/auth");
const prisma = require("../prisma");
const stripe = require("../stripe");

const router = express.Router();
router.use(authenticate);

router.get("/", async (req, res) => {
  const where = req.query.status ? { status: req.query.status } : {};
  const payments = await prisma.payment.findMany({ where, orderBy: { dueDate: "desc" }, take: 100 });
  res.json({ success: true, data: payments });
});

// Rent that came by cheque or in cash
router.post("/", async (req, res) => {
  const { leaseId, tenantId, amount, type } = req.body || {};
  if (!tenantId || !(amount > 0)) return res.status(400).json({ error: "tenantId and amount are required" });
  const now = new Date();
  const payment = await prisma.payment.create({
    data: { leaseId, tenantId, amount, type, status: "PAID", dueDate: now, paidDate: now, provider: "manual" },
  });
  res.status(201).json({ success: true, data: payment });
});

router.post("/intent", async (req, res) => {
  const { leaseId, tenantId, amount, type } = req.body || {};
  if (!tenantId || !(amount > 0)) return res.status(400).json({ error: "tenantId and amount are required" });
  const intent = await stripe.paymentIntents.create({
    amount: Math.round(amount * 100),
    currency: "usd",
    metadata: { tenantId },
  });
  const payment = await prisma.payment.create({
    data: { leaseId, tenantId, amount, type, dueDate: new Date(), provider: "stripe", providerIntentId: intent.id },
  });
  console.log("💳 Payment intent created:", {
    paymentId: payment.id,
    intentId: intent.id,
    amount,
    currency: intent.currency,
    tenantId,
  });
  res.status(201).json({ success: true, data: { payment, clientSecret: intent.client_secret } });
});

module.exports = router;
