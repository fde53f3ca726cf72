const crypto = require("crypto");
const { PutObjectCommand, S3Client } = require("@aws-sdk/client-s3");
const { getSignedUrl } = require("@aws-sdk/s3-request-presigner");
const express = require("express");
const authenticate = require("../middleware/auth");

const router = express.Router();
const { AWS_REGION, S3_BUCKET, S3_ENDPOINT } = process.env;
const ENTITIES = ["property", "lease", "tenant", "maintenance", "application"];
const TYPES = { "image/jpeg": "jpg", "image/png": "png", "application/pdf": "pdf" };
const EXPIRES = 900;

const s3 = new S3Client({
  region: AWS_REGION,
  ...(S3_ENDPOINT ? { endpoint: S3_ENDPOINT, forcePathStyle: true } : {}),
  requestChecksumCalculation: "WHEN_REQUIRED",
});

router.post("/signed-url", authenticate, async (req, res) => {
  const { entityType, entityId, contentType } = req.body || {};
  if (!entityType || !entityId || !contentType) {
    return res.status(400).json({ error: "entityType, entityId and contentType are required" });
  }
  if (!ENTITIES.includes(entityType)) return res.status(400).json({ error: "Invalid entityType" });
  if (!TYPES[contentType]) return res.status(400).json({ error: "Invalid contentType" });

  const key = `${entityType}/${entityId}/${Date.now()}-${crypto.randomUUID()}.${TYPES[contentType]}`;
  const command = new PutObjectCommand({ Bucket: S3_BUCKET, Key: key, ContentType: contentType });
  const uploadUrl = await getSignedUrl(s3, command, { expiresIn: EXPIRES });
  const fileUrl = S3_ENDPOINT
    ? `${S3_ENDPOINT}/${S3_BUCKET}/${key}`
    : `https://${S3_BUCKET}.s3.${AWS_REGION}.amazonaws.com/${key}`;
  res.json({ success: true, data: { uploadUrl, fileUrl, key, expiresIn: EXPIRES } });
});

module.exports = router;
