-- AlterTable
ALTER TABLE "maintenance_tickets" ADD COLUMN     "photos" TEXT[];
