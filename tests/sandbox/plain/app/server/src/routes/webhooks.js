const express = require("express");
const prisma = require("../prisma");
const stripe = require("../stripe");

const router = express.Router();

router.post("/", express.raw({ type: "application/json" }), async (req, res) => {
  let event;
  try {
    event = stripe.webhooks.constructEvent(
      req.body,
      req.headers["stripe-signature"],
      process.env.STRIPE_WEBHOOK_SECRET,
    );
  } catch (error) {
    console.error("❌ Webhook signature verification failed:", error.message);
    return res.status(400).send(`Webhook Error: ${error.message}`);
  }

  try {
    switch (event.type) {
      case "payment_intent.succeeded":
        await markPaid(event.data.object);
        break;
      default:
        break;
    }
    res.json({ received: true });
  } catch (error) {
    console.error("❌ Stripe webhook error:", error);
    res.status(500).json({ error: "Webhook handler failed" });
  }
});

async function markPaid(intent) {
  const payment = await prisma.payment.findUnique({ where: { providerIntentId: intent.id } });
  if (!payment) {
    console.error(`⚠️ Payment not found for intent: ${intent.id}`);
    return;
  }
  await prisma.payment.update({ where: { id: payment.id }, data: { status: "PAID", paidDate: new Date() } });
  console.log(`✅ Payment marked as paid: ${payment.id}`);
}

module.exports = router;
