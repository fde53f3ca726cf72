const express = require("express");
const authenticate = require("../middleware/auth");

const router = express.Router();

const shown = ({ id, email, name, role }) => ({ id, email, name, role });

// The browser signs in at Firebase and shows its ID token here
router.post("/login", authenticate, (req, res) => {
  console.log("👤 User logged in:", req.user.email);
  res.json({ success: true, data: shown(req.user) });
});

router.get("/me", authenticate, (req, res) => {
  res.json({ success: true, data: shown(req.user) });
});

module.exports = router;
