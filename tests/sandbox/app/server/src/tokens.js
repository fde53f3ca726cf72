const jwt = require("jsonwebtoken");
const { jwtSecrets } = require("./config/env");

const ALGORITHM = "HS256";
const LIFETIME = { access: "15m", refresh: "7d" };

function sign(user, kind) {
  const claims = { sub: String(user.id), email: user.email, role: user.role, kind };
  return jwt.sign(claims, jwtSecrets[0], { algorithm: ALGORITHM, expiresIn: LIFETIME[kind] });
}

function verify(token, kind) {
  let failure;
  for (const secret of jwtSecrets) {
    try {
      const claims = jwt.verify(token, secret, { algorithms: [ALGORITHM] });
      if (claims.kind !== kind) throw new jwt.JsonWebTokenError(`not an ${kind} token`);
      return claims;
    } catch (error) {
      failure ??= error;
      if (error.message !== "invalid signature") throw error;
    }
  }
  throw failure;
}

module.exports = { sign, verify };
