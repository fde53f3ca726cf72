-- AlterTable
ALTER TABLE "payments" ADD COLUMN     "currency" TEXT NOT NULL DEFAULT 'usd',
ADD COLUMN     "provider" TEXT,
ADD COLUMN     "providerIntentId" TEXT;

-- CreateIndex
CREATE UNIQUE INDEX "payments_providerIntentId_key" ON "payments"("providerIntentId");

-- CreateIndex
CREATE INDEX "payments_status_idx" ON "payments"("status");
