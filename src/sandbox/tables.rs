//! The tables of the shop: what a repair shop's management system keeps, in twelve tables.

/// What a column's values look like. They are functions of the seed, the row and its revision.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum ShopKind {
    /// The row's own key: 24 hexadecimal digits.
    Id,
    /// The id of a row of the table at this place.
    Ref(usize),
    /// The id of the company that owns the row.
    Company,
    /// The id of that company's only location.
    Location,
    /// A text of so many words.
    Words(u32),
    /// Text with quotes, backslashes, emoji, other scripts.
    Odd,
    /// A name, in several scripts.
    Person,
    /// An address of example.com.
    Email,
    /// From 0 up to and without this.
    Integer(u64),
    /// An integer beyond 2^53, which a double cannot hold.
    Big,
    /// An integer below a million.
    Cents,
    /// A number with two decimals.
    Decimal,
    /// A boolean.
    Flag,
    /// A time from 1960 to 2045, in UTC and with offsets.
    Date,
    /// One of these.
    Word(&'static [&'static str]),
    /// A list of two texts.
    Strings,
    /// A JSON object with a number beyond 2^53 and a nested text.
    Object,
}

/// A column of a table.
#[derive(Clone, Debug)]
pub struct ShopColumn {
    /// Its name, as events have it.
    pub name: String,
    /// What its values look like.
    pub kind: ShopKind,
    /// One in five values is null.
    pub nullable: bool,
    /// The same in all revisions of a row.
    pub fixed: bool,
    /// What it was before its table's schema changed, the oldest first.
    pub formers: Vec<FormerColumn>,
}

/// What a column was in an earlier version of its table.
#[derive(Clone, Debug)]
pub struct FormerColumn {
    /// `None` where there was no such column yet.
    pub kind: Option<ShopKind>,
    /// The last revision of each row in that version, by the row's number.
    pub until: Vec<u32>,
}

impl ShopColumn {
    /// What the value of row `n` in this revision looks like; `None` where the row had none yet.
    pub fn kind_at(&self, n: u64, revision: u32) -> Option<ShopKind> {
        let was = |former: &&FormerColumn| {
            let row = usize::try_from(n).ok().and_then(|n| former.until.get(n));
            row.is_some_and(|until| revision <= *until)
        };
        self.formers.iter().find(was).map_or(Some(self.kind), |former| former.kind)
    }
}

/// A table of the shop.
#[derive(Clone, Debug)]
pub struct ShopTable {
    /// Its name, as events have it.
    pub name: &'static str,
    /// The model version: a hash of name and columns.
    pub version: String,
    /// In the order in which rows have them; the key `id` is the first.
    pub columns: Vec<ShopColumn>,
    /// How often it changes, in relation to the others.
    pub weight: u32,
}

impl ShopTable {
    /// The table's schema in HQ's form, as JSON.
    pub fn schema(&self) -> String {
        let property = |column: &ShopColumn| {
            let body = match column.kind {
                ShopKind::Integer(_) | ShopKind::Big | ShopKind::Cents => {
                    r#""type":"integer""#.to_owned()
                }
                ShopKind::Decimal => r#""type":"number""#.into(),
                ShopKind::Flag => r#""type":"boolean""#.into(),
                ShopKind::Date => r#""type":"string","format":"date-time""#.into(),
                ShopKind::Strings => r#""type":"array","items":{"type":"string"}"#.into(),
                ShopKind::Object => r#""type":"object","additionalProperties":true"#.into(),
                ShopKind::Word(all) => {
                    format!(r#""type":"array","items":{{"type":"enum","enum":{all:?}}}"#)
                }
                _ => r#""type":"string""#.into(),
            };
            format!(
                "{:?}:{{{body}{}}}",
                column.name,
                if column.nullable { r#","nullable":true"# } else { "" }
            )
        };
        let properties: Vec<String> = self.columns.iter().map(property).collect();
        let required: Vec<&str> = self.columns.iter().map(|c| c.name.as_str()).collect();
        format!(
            r#"{{"table":{:?},"modelVersion":{:?},"primaryKeys":["id"],"required":{required:?},"properties":{{{}}}}}"#,
            self.name,
            self.version,
            properties.join(",")
        )
    }
}

const STATUS: &[&str] = &["Estimate", "RepairOrder", "Invoice"];
const PAY: &[&str] = &["Cash", "CreditCard", "Cheque", "Other"];
const FUEL: &[&str] = &["Gasoline", "Diesel", "Electric", "Hybrid"];

/// `name:kind` pairs; a `?` makes a column nullable.
fn table(name: &'static str, weight: u32, columns: &str) -> ShopTable {
    let mut all = vec![
        column("id", ShopKind::Id, false, true),
        column("companyId", ShopKind::Company, false, true),
        column("locationId", ShopKind::Location, true, true),
    ];
    for spec in columns.split_whitespace() {
        let (name, kind) = spec.split_once(':').unwrap_or((spec, "words"));
        let (kind, nullable) = kind.strip_suffix('?').map_or((kind, false), |k| (k, true));
        all.push(column(name, parse(kind), nullable, false));
    }
    all.push(column("createdDate", ShopKind::Date, false, true));
    all.push(column("updatedDate", ShopKind::Date, true, false));
    all.push(column("meta", ShopKind::Object, true, false));
    ShopTable { name, version: version(name, columns), columns: all, weight }
}

fn column(name: &str, kind: ShopKind, nullable: bool, fixed: bool) -> ShopColumn {
    ShopColumn { name: name.into(), kind, nullable, fixed, formers: Vec::new() }
}

impl ShopTable {
    /// One more column, which rows have from their next revision on; `until` are their present
    /// ones.
    pub fn add_column(&mut self, kind: ShopKind, until: Vec<u32>) {
        let mut added = column(&format!("added{}", self.columns.len()), kind, true, false);
        added.formers.push(FormerColumn { kind: None, until });
        self.columns.push(added);
        self.next_version();
    }

    /// A column of whole numbers takes others, too, from the rows' next revision on. Whether there
    /// is one.
    pub fn widen_column(&mut self, until: Vec<u32>) -> bool {
        let is_whole = |kind: ShopKind| matches!(kind, ShopKind::Integer(_) | ShopKind::Cents);
        let Some(column) = self.columns.iter_mut().find(|column| is_whole(column.kind)) else {
            return false;
        };
        column.formers.push(FormerColumn { kind: Some(column.kind), until });
        column.kind = ShopKind::Decimal;
        self.next_version();
        true
    }

    fn next_version(&mut self) {
        self.version = version(&self.version, "the next");
    }
}

fn version(of: &str, columns: &str) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(format!("{of}{columns}").as_bytes()))
}

fn parse(kind: &str) -> ShopKind {
    match kind.split_once('/').unwrap_or((kind, "")) {
        ("ref", n) => ShopKind::Ref(n.parse().unwrap_or(0)),
        ("text", n) => ShopKind::Words(n.parse().unwrap_or(3)),
        ("odd", _) => ShopKind::Odd,
        ("person", _) => ShopKind::Person,
        ("email", _) => ShopKind::Email,
        ("int", n) => ShopKind::Integer(n.parse().unwrap_or(1000)),
        ("big", _) => ShopKind::Big,
        ("cents", _) => ShopKind::Cents,
        ("decimal", _) => ShopKind::Decimal,
        ("flag", _) => ShopKind::Flag,
        ("date", _) => ShopKind::Date,
        ("strings", _) => ShopKind::Strings,
        ("object", _) => ShopKind::Object,
        ("status", _) => ShopKind::Word(STATUS),
        ("pay", _) => ShopKind::Word(PAY),
        ("fuel", _) => ShopKind::Word(FUEL),
        _ => ShopKind::Words(3),
    }
}

/// The tables but [`ORDER`]: name, weight, columns. Others refer to customer and vehicle.
const TABLES: &[(&str, u32, &str)] = &[
    (
        "customer",
        10,
        "publicId:text/1 firstName:person lastName:person? companyName:text/2? email:email? \
         phone:text/1? note:odd? address1:text/3? city:text/1? state:text/1? \
         postalCode:int/99999? taxExempt:flag marketingOptIn:flag creditLimitCents:cents \
         balanceCents:cents tags:strings preferences:object? lastVisit:date? \
         discountPercent:decimal? loyaltyPoints:big? referralSource:text/2? smsOptIn:flag \
         fleet:flag contactIds:strings \
         customFields:object? history:text/12?",
    ),
    (
        "vehicle",
        8,
        "customerId:ref/0 vin:text/1 make:text/1 model:text/1 year:int/40 mileage:decimal? \
         fuel:fuel color:text/1? notes:odd? plate:text/1? engine:object? features:strings",
    ),
    (
        "labor",
        12,
        "orderId:ref/2 name:text/4 hours:decimal rateCents:cents technicianId:text/1? \
         completed:flag completedDate:date? note:odd? skills:strings",
    ),
    (
        "part",
        12,
        "orderId:ref/2 name:text/3 number:text/1 quantity:decimal costCents:cents \
         retailCents:cents coreCents:cents? vendor:text/2? bin:text/1? taxable:flag \
         attributes:object?",
    ),
    (
        "payment",
        6,
        "orderId:ref/2 amountCents:cents type:pay note:odd? paidDate:date refunded:flag \
         processor:object? reference:big?",
    ),
    (
        "appointment",
        4,
        "customerId:ref/0 name:text/4 startDate:date endDate:date? allDay:flag color:text/1? \
         note:odd? reminders:strings",
    ),
    (
        "inspection",
        4,
        "orderId:ref/2 name:text/3 completed:flag score:decimal? items:object? photos:strings \
         technician:text/1?",
    ),
    (
        "message",
        6,
        "customerId:ref/0 body:odd subject:text/6? inbound:flag sentDate:date? \
         attachments:strings",
    ),
    (
        "purchase_order",
        3,
        "number:int/100000 vendor:text/2 totalCents:cents received:flag note:odd? \
         lines:object?",
    ),
    // Names that are keywords of SQL.
    (
        "user",
        2,
        "name:person email:email? select:text/2? from:flag group:strings order:int/50 \
         where:decimal?",
    ),
    (
        "canned_service",
        2,
        "name:text/4 lumpSumCents:cents? recommended:flag note:odd? parts:strings \
         pricing:object?",
    ),
];
/// Where the table of [`order`] is among the others, which refer to it by this number.
const ORDER: usize = 2;
/// Amounts of money of an order.
const AMOUNTS: &[&str] = &[
    "total",
    "labor",
    "parts",
    "fees",
    "discount",
    "tax",
    "shop",
    "epa",
    "gst",
    "hst",
    "pst",
    "tires",
    "subcontracts",
    "paid",
    "remaining",
    "profit",
    "cost",
    "net",
];
/// Rates and quantities of an order.
const RATES: &[&str] = &[
    "taxRate",
    "laborRate",
    "discountPercent",
    "shopPercent",
    "epaPercent",
    "gstRate",
    "hstRate",
    "pstRate",
    "margin",
    "hours",
];
/// Flags of an order.
const FLAGS: &[&str] = &[
    "taxLabor",
    "taxParts",
    "taxFees",
    "taxTires",
    "requireSignature",
    "requirePo",
    "hasRecalls",
    "imported",
    "readOnly",
    "sendReminder",
];
/// Texts of an order, with their numbers of words.
const TEXTS: &[(&str, u32)] = &[
    ("serviceWriter", 2),
    ("poNumber", 1),
    ("keyTag", 1),
    ("messageThread", 1),
    ("workflow", 2),
    ("signature", 25),
    ("terms", 80),
    ("marketing", 10),
    ("source", 2),
];
/// Dates of an order.
const DATES: &[&str] =
    &["started", "picked", "dropped", "reminded", "viewed", "exported", "synced", "closed"];

/// The shop's tables; a column of kind [`ShopKind::Ref`] names one by its place among them.
pub fn shop() -> Vec<ShopTable> {
    let spec = |(name, weight, columns): &(&'static str, u32, &str)| table(name, *weight, columns);
    let mut tables: Vec<ShopTable> = TABLES.iter().map(spec).collect();
    tables.insert(ORDER, order());
    tables
}

/// The widest: about 90 columns and 4 kB.
fn order() -> ShopTable {
    let mut columns = String::from(
        "customerId:ref/0 vehicleId:ref/1? number:int/1000000 publicId:text/1 name:text/4 \
         status:status archived:flag authorized:flag paid:flag invoiced:flag \
         invoicedDate:date? completedDate:date? authorizedDate:date? dueDate:date? \
         mileageIn:decimal? mileageOut:decimal? complaint:text/60? recommendation:text/60? \
         note:odd? internalNote:text/40? coalescedName:text/6 assignedTechnicianIds:strings \
         labelIds:strings metadata:object? statistics:object? bigNumber:big ",
    );
    for name in AMOUNTS {
        columns += &format!("{name}Cents:cents ");
    }
    for name in RATES {
        columns += &format!("{name}:decimal? ");
    }
    for name in FLAGS {
        columns += &format!("{name}:flag ");
    }
    for (name, words) in TEXTS {
        columns += &format!("{name}:text/{words}? ");
    }
    for name in DATES {
        columns += &format!("{name}Date:date? ");
    }
    table("order", 25, &columns)
}
