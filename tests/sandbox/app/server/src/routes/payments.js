const { Router } = require("express");
const { prisma } = require("../database");
const authenticate = require("../middleware/authenticate");
const stripe = require("../stripe");

const router = Router();
router.use(authenticate);

router.get("/", async (request, response) => {
  const status = request.query.status;
  response.json(await prisma.payment.findMany({ where: { status }, orderBy: { id: "desc" }, take: 100 }));
});

// Who owes how much to whom; a request that does not say so is answered.
async function owed(request, response) {
  const { tenantId, amount } = request.body ?? {};
  if (!Number.isInteger(tenantId) || !Number.isInteger(amount) || amount <= 0) {
    return void response.status(400).json({ error: "tenantId and amount (minor units) are required" });
  }
  const tenant = await prisma.tenant.findUnique({ where: { id: tenantId } });
  if (!tenant) return void response.status(404).json({ error: "No such tenant" });
  return { tenantId, propertyId: tenant.propertyId, amount, dueDate: new Date() };
}

// Rent that is due, however it will be paid.
router.post("/", async (request, response) => {
  const data = await owed(request, response);
  if (data) response.status(201).json(await prisma.payment.create({ data }));
});

router.post("/intent", async (request, response) => {
  const data = await owed(request, response);
  if (!data) return;
  const { tenantId, amount } = data;
  const intent = await stripe.paymentIntents.create({ amount, currency: "usd", metadata: { tenant: String(tenantId) } });
  const payment = await prisma.payment.create({ data: { ...data, providerIntentId: intent.id } });
  response.status(201).json({ payment, clientSecret: intent.client_secret });
});

module.exports = router;
