const crypto = require("crypto");
const jwt = require("jsonwebtoken");

const projectId = process.env.FIREBASE_PROJECT_ID;
const privateKey = process.env.FIREBASE_PRIVATE_KEY?.replace(/\\n/g, "\n");

if (!projectId || !privateKey) {
  throw new Error("Firebase is not configured: FIREBASE_PROJECT_ID and FIREBASE_PRIVATE_KEY are required");
}

// Throws if the key is cut off, as it is when somebody pastes only its first line
const serviceAccount = {
  clientEmail: process.env.FIREBASE_CLIENT_EMAIL,
  privateKey: crypto.createPrivateKey(privateKey),
};

const CERTS_URL =
  process.env.FIREBASE_CERTS_URL ||
  "https://www.googleapis.com/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com";

let certs = {};
let expires = 0;

// Google's public keys, by key id, kept for as long as Google says
async function publicKeys() {
  if (Date.now() >= expires) {
    const answer = await fetch(CERTS_URL);
    if (!answer.ok) throw new Error(`Google answered ${answer.status} for its public keys`);
    certs = await answer.json();
    const age = /max-age=(\d+)/.exec(answer.headers.get("cache-control") || "");
    expires = Date.now() + Number(age ? age[1] : 0) * 1000;
  }
  return certs;
}

async function verifyIdToken(token) {
  const decoded = jwt.decode(token, { complete: true });
  if (!decoded) throw new Error("Decoding Firebase ID token failed");
  if (decoded.header.alg !== "RS256") {
    throw new Error(`Firebase ID token has incorrect algorithm. Expected "RS256" but got "${decoded.header.alg}"`);
  }
  const cert = (await publicKeys())[decoded.header.kid];
  if (!cert) throw new Error('Firebase ID token has "kid" claim which does not correspond to a known public key');
  const claims = jwt.verify(token, crypto.createPublicKey(cert), {
    algorithms: ["RS256"],
    audience: projectId,
    issuer: `https://securetoken.google.com/${projectId}`,
  });
  if (!claims.sub) throw new Error('Firebase ID token has an empty string "sub" (subject) claim');
  return { ...claims, uid: claims.sub };
}

module.exports = { serviceAccount, verifyIdToken };
