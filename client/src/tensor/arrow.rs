//! Tensors and tables to and from the arrays and record batches of Arrow.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use arrow_array::{ArrowPrimitiveType, PrimitiveArray, RecordBatch};
use arrow_buffer::{Buffer, ScalarBuffer};
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, SchemaRef};
use bytes::Bytes;
use clutch_protocol::attachment::Content;
use clutch_protocol::plain::ATTACHED;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::ser::{Error as _, Serialize, Serializer};

use super::array::{Memory, Owner, Tensor};
use super::error::TensorError;
use crate::memory::Mapped;
use crate::memory::hand::{self, Enclosure, Offer, Place};
use crate::memory::memfd;
use crate::sys::{Element, VALUE_SEALS};

/// A table: record batches of one schema, which are a `pyarrow.Table` in Python.
///
/// As an argument, or anywhere inside one, it is written once, as an Arrow IPC stream, into memory
/// that the worker maps. As a result, it is the worker's memory, mapped: columns are used where
/// they are. It travels by `plain` only.
///
/// ```no_run
/// # async fn f(
/// #     client: clutch_client::Client,
/// #     batch: arrow_array::RecordBatch,
/// # ) -> Result<(), clutch_client::Failure> {
/// use clutch_client::ArrowTable;
///
/// let sorted: ArrowTable = client.call("mytasks:sort", (ArrowTable::from(batch),)).await?;
/// let rows: usize = sorted.batches().iter().map(|batch| batch.num_rows()).sum();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ArrowTable {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl ArrowTable {
    /// A table of these batches.
    ///
    /// # Errors
    ///
    /// When one has another schema.
    pub fn new(schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<ArrowTable, ArrowError> {
        if batches.iter().any(|batch| batch.schema_ref() != &schema) {
            let fault = "the batches of a table have one schema";
            return Err(ArrowError::SchemaError(fault.into()));
        }
        Ok(ArrowTable { schema, batches })
    }

    /// The names and types of its columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Its rows.
    pub fn batches(&self) -> &[RecordBatch] {
        &self.batches
    }

    /// Its rows, to be kept.
    pub fn into_batches(self) -> Vec<RecordBatch> {
        self.batches
    }

    /// Writes it into memory of its own.
    fn write(&self) -> Result<(OwnedFd, u64), ArrowError> {
        let file = File::from(memfd::create()?);
        let mut writer = StreamWriter::try_new(file, &self.schema)?;
        for batch in &self.batches {
            writer.write(batch)?;
        }
        let descriptor = OwnedFd::from(writer.into_inner()?);
        memfd::seal(descriptor.as_fd(), VALUE_SEALS)?;
        let size = memfd::size(descriptor.as_fd())?;
        Ok((descriptor, size))
    }

    fn read(bytes: Bytes) -> Result<ArrowTable, ArrowError> {
        let mut decoder = StreamDecoder::new();
        let mut buffer = Buffer::from(bytes);
        let mut batches = Vec::new();
        while let Some(batch) = decoder.decode(&mut buffer)? {
            batches.push(batch);
        }
        decoder.finish()?;
        let empty = || ArrowError::IpcError("it has no schema".into());
        Ok(ArrowTable { schema: decoder.schema().ok_or_else(empty)?, batches })
    }
}

impl From<RecordBatch> for ArrowTable {
    fn from(batch: RecordBatch) -> ArrowTable {
        ArrowTable { schema: batch.schema(), batches: vec![batch] }
    }
}

impl Serialize for ArrowTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let enclosure = || {
            let (descriptor, bytes) = self.write().map_err(|error| error.to_string())?;
            let descriptor = Arc::new(descriptor);
            let place = Place::Descriptor { descriptor, size: bytes, offset: 0, bytes };
            Ok(Enclosure { content: Content::Arrow, place })
        };
        hand::serialize(serializer, enclosure, NoData)
    }
}

/// A table is no data of any other format.
struct NoData;

impl Serialize for NoData {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("an Arrow table is sent by the codec `plain` of a call only"))
    }
}

impl<'de> Deserialize<'de> for ArrowTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ArrowTable, D::Error> {
        deserializer.deserialize_newtype_struct(ATTACHED, TableVisitor)
    }
}

struct TableVisitor;

impl<'de> Visitor<'de> for TableVisitor {
    type Value = ArrowTable;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an Arrow table")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<ArrowTable, E> {
        let bytes = match hand::take_offer() {
            Some(Offer {
                content: Content::Arrow,
                memory: hand::Memory::Still(memory),
                offset,
                bytes,
            }) => Bytes::from_owner(Mapped(memory)).slice(offset..offset + bytes),
            Some(_) => return Err(E::custom("the attachment is no Arrow table")),
            None => return Err(E::custom("expected an Arrow table, found None")),
        };
        ArrowTable::read(bytes)
            .map_err(|error| E::custom(format!("the attachment is no Arrow table: {error}")))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<ArrowTable, D::Error> {
        inner.deserialize_any(Nothing)
    }
}

/// Takes nothing, and says what was there.
struct Nothing;

impl<'de> Visitor<'de> for Nothing {
    type Value = ArrowTable;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an Arrow table (pyarrow.Table)")
    }

    /// Where the whole of a value is asked for, what holds it is named first.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, _: D) -> Result<ArrowTable, D::Error> {
        Err(D::Error::custom("expected an Arrow table (pyarrow.Table)"))
    }
}

impl Owner for Buffer {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl<T: ArrowPrimitiveType> TryFrom<&PrimitiveArray<T>> for Tensor
where
    T::Native: Element,
{
    type Error = TensorError;

    /// One dimension, over the array's own memory.
    fn try_from(array: &PrimitiveArray<T>) -> Result<Tensor, TensorError> {
        use arrow_array::Array as _;
        match array.null_count() {
            0 => {}
            count => return Err(TensorError::Nulls { count }),
        }
        let values = array.values();
        let (dtype, bytes) = (T::Native::DTYPE, values.inner().len());
        Ok(Tensor::owned(dtype, vec![values.len()], Arc::new(values.inner().clone()), bytes))
    }
}

impl<T: ArrowPrimitiveType> TryFrom<Tensor> for PrimitiveArray<T>
where
    T::Native: Element,
{
    type Error = TensorError;

    /// Its elements in C order: where they are, if that is memory which came from a worker or was
    /// built in place, and copied otherwise.
    fn try_from(tensor: Tensor) -> Result<PrimitiveArray<T>, TensorError> {
        let in_place = tensor.as_slice::<T::Native>().is_ok();
        if let Memory::Still(memory) = &tensor.memory
            && in_place
            // No bytes have no place that is aligned for anything.
            && !tensor.is_empty()
        {
            let bytes = Bytes::from_owner(Mapped(Arc::clone(memory)));
            let bytes = bytes.slice(tensor.offset..tensor.offset + tensor.bytes);
            let values = ScalarBuffer::new(Buffer::from(bytes), 0, tensor.len());
            return Ok(PrimitiveArray::new(values, None));
        }
        Ok(PrimitiveArray::new(Vec::<T::Native>::try_from(tensor)?.into(), None))
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::types::{Float64Type, Int32Type};
    use arrow_array::{Array, Float64Array, Int32Array, StringArray};
    use arrow_schema::{DataType, Field, Schema};

    use super::*;

    fn table() -> ArrowTable {
        let fields = vec![
            Field::new("name", DataType::Utf8, true),
            Field::new("count", DataType::Int32, true),
        ];
        let schema = Arc::new(Schema::new(fields));
        let names = Arc::new(StringArray::from(vec![Some("a"), None, Some("c")]));
        let counts = Arc::new(Int32Array::from(vec![Some(1), Some(2), None]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![names, counts]).unwrap();
        ArrowTable::new(schema, vec![batch.clone(), batch.slice(1, 2)]).unwrap()
    }

    #[test]
    fn a_table_is_the_same_behind_its_bytes() {
        let (descriptor, size) = table().write().unwrap();
        let memory = memfd::adopt_still(descriptor).unwrap();
        let bytes = Bytes::from_owner(Mapped(memory));
        assert_eq!(size, bytes.len() as u64);
        assert_eq!(table(), ArrowTable::read(bytes.clone()).unwrap());
        for cut in [0, 1, 8, 100] {
            assert!(ArrowTable::read(bytes.slice(..cut)).is_err(), "{cut}");
        }
        let empty = ArrowTable::new(Arc::clone(table().schema()), Vec::new()).unwrap();
        let memory = memfd::adopt_still(empty.write().unwrap().0).unwrap();
        assert_eq!(empty, ArrowTable::read(Bytes::from_owner(Mapped(memory))).unwrap());
        assert!(serde_json::to_string(&table()).is_err());
    }

    #[test]
    fn numbers_stay_where_they_are() {
        let array = Float64Array::from(vec![1.5, 2.5, 3.5]);
        let tensor = Tensor::try_from(&array).unwrap();
        assert_eq!(array.values().as_ptr(), tensor.as_slice::<f64>().unwrap().as_ptr());
        let built = Tensor::build::<f64>(&[3], |all| all[2] = 9.0).unwrap();
        let place = built.as_slice::<f64>().unwrap().as_ptr();
        let array = PrimitiveArray::<Float64Type>::try_from(built).unwrap();
        assert_eq!((place, 9.0), (array.values().as_ptr(), array.value(2)));
        let array = PrimitiveArray::<Int32Type>::try_from(tensor);
        assert!(matches!(array, Err(TensorError::Inexact { .. })));
        for empty in [&[0][..], &[3, 0]] {
            let built = Tensor::build::<f64>(empty, |_| {}).unwrap();
            assert_eq!(0, PrimitiveArray::<Float64Type>::try_from(built).unwrap().len());
        }
        let holes = Int32Array::from(vec![Some(1), None]);
        assert_eq!(1, holes.null_count());
        assert!(matches!(Tensor::try_from(&holes), Err(TensorError::Nulls { count: 1 })));
    }
}
