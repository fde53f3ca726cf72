const express = require("express");
const authenticate = require("../middleware/auth");
const { sendEmail } = require("../utils/email");

const router = express.Router();

router.post("/email", authenticate, async (req, res) => {
  const { to, subject, message } = req.body || {};
  if (!to || !subject) return res.status(400).json({ error: "to and subject are required" });
  const result = await sendEmail({ to, subject, html: `<p>${message || ""}</p>` });
  res.status(result.success ? 200 : 500).json(result);
});

module.exports = router;
