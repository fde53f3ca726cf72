const express = require("express");
const { stripeWebhookSecrets } = require("../config/env");
const { prisma } = require("../database");
const logger = require("../logger");
const stripe = require("../stripe");

const OPEN = ["PENDING", "PROCESSING", "FAILED"];

function verified(request) {
  let failure;
  for (const secret of stripeWebhookSecrets) {
    try {
      return stripe.webhooks.constructEvent(request.body, request.get("stripe-signature"), secret);
    } catch (error) {
      failure ??= error;
    }
  }
  throw failure;
}

const EFFECTS = {
  "payment_intent.succeeded": (object) => settle(object.id, OPEN, { status: "PAID", paidDate: new Date() }),
  "payment_intent.payment_failed": (object) => settle(object.id, OPEN, { status: "FAILED" }),
  "payment_intent.canceled": (object) => settle(object.id, OPEN, { status: "FAILED" }),
  "charge.refunded": (object) => settle(object.payment_intent, ["PAID"], { status: "REFUNDED" }),
};

function settle(providerIntentId, from, data) {
  return { where: { providerIntentId, status: { in: from } }, data };
}

// The event is noted and its effect carried out together, so that a second delivery finds both or neither.
async function processed(event) {
  const effect = EFFECTS[event.type]?.(event.data.object);
  return prisma.$transaction(async (database) => {
    const { count } = await database.webhookEvent.createMany({
      data: [{ id: event.id, type: event.type }],
      skipDuplicates: true,
    });
    if (count === 0) return "duplicate";
    if (!effect) return "ignored";
    const changed = await database.payment.updateMany(effect);
    return changed.count > 0 ? effect.data.status : "unchanged";
  });
}

// The raw body: a signature is over the bytes that were sent.
module.exports = express.Router().post("/stripe", express.raw({ type: "*/*" }), async (request, response) => {
  let event;
  try {
    event = verified(request);
  } catch (error) {
    logger.error("❌ Stripe webhook signature verification failed", { error: error.message.split("\n")[0].trim() });
    return response.status(400).json({ error: "Webhook signature verification failed" });
  }
  const outcome = await processed(event);
  const details = { event: event.id, type: event.type, object: event.data.object.id, outcome };
  logger.info(outcome === "PAID" ? "Payment marked as paid" : "Stripe webhook processed", details);
  response.json({ received: true, outcome });
});
