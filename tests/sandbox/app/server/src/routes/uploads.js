const { randomUUID } = require("node:crypto");
const { PutObjectCommand, S3Client } = require("@aws-sdk/client-s3");
const { getSignedUrl } = require("@aws-sdk/s3-request-presigner");
const { Router } = require("express");
const { awsRegion, s3Bucket, s3Endpoint } = require("../config/env");
const authenticate = require("../middleware/authenticate");

const EXPIRES_SECONDS = 900;

// Checksums only when required: a browser that uploads with the signed URL computes none.
const s3 = new S3Client({
  region: awsRegion,
  endpoint: s3Endpoint,
  forcePathStyle: Boolean(s3Endpoint),
  requestChecksumCalculation: "WHEN_REQUIRED",
});

module.exports = Router().post("/signed-url", authenticate, async (request, response) => {
  const { fileName, contentType } = request.body ?? {};
  if (typeof fileName !== "string" || !/^[\w.-]{1,120}$/.test(fileName)) {
    return response.status(400).json({ error: "fileName must be 1 to 120 letters, digits, dots and dashes" });
  }
  const key = `uploads/${randomUUID()}/${fileName}`;
  const command = new PutObjectCommand({ Bucket: s3Bucket, Key: key, ContentType: contentType });
  response.json({ key, url: await getSignedUrl(s3, command, { expiresIn: EXPIRES_SECONDS }), expiresIn: EXPIRES_SECONDS });
});
