const { verifyIdToken } = require("../firebase");
const prisma = require("../prisma");

module.exports = async function authenticate(req, res, next) {
  const header = req.headers.authorization;
  if (!header?.startsWith("Bearer ")) {
    console.error("❌ No token provided");
    return res.status(401).json({ error: "No token provided" });
  }
  let claims;
  try {
    claims = await verifyIdToken(header.slice("Bearer ".length));
  } catch (error) {
    console.error("❌ Authentication error:", error);
    return res.status(401).json({ error: "Invalid or expired token" });
  }
  req.user = await prisma.user.findUnique({ where: { firebaseUid: claims.uid } });
  if (!req.user) {
    console.error("❌ Authentication error: no user with Firebase uid", claims.uid);
    return res.status(401).json({ error: "Invalid or expired token" });
  }
  next();
};
