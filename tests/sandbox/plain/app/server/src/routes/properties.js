const express = require("express");
const authenticate = require("../middleware/auth");
const prisma = require("../prisma");

const router = express.Router();

router.get("/", authenticate, async (req, res) => {
  const properties = await prisma.property.findMany({ include: { leases: true }, orderBy: { createdAt: "asc" } });
  res.json({ success: true, data: properties });
});

router.get("/:id/tickets", authenticate, async (req, res) => {
  const where = { propertyId: req.params.id };
  res.json({ success: true, data: await prisma.maintenanceTicket.findMany({ where }) });
});

module.exports = router;
